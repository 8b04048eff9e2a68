"""How a scanner records an object: receive coils, noise and the acquired part of k-space.

`expand.py` is the only place where an image becomes multi-coil k-space: builder, loaders, stream, exports and checks
use it, so stored and expanded k-space have the same bytes.
"""
