"""Write the export that `consumers.py` reads: `python tests/consumers/make_export.py FOLDER`."""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from export_volumes import make_coils, make_consumer_corpus
from phantom_corpus import make_attributes

from rephase.corpus.index_writer import write_index
from rephase.exports.export import export_corpus

SIZE = 320
VIEW_MM = 220.0

with tempfile.TemporaryDirectory() as temporary:
    store = make_consumer_corpus(Path(temporary) / "c.zarr")
    # mrpro's image data set takes only matrices and fields of view as fastMRI's brains have them
    arrays = make_coils(1, 4, SIZE, SIZE, 5)
    spacing = VIEW_MM / SIZE
    store.commit_volume(
        "brain", arrays, make_attributes(arrays, acquisition="AXT2", spacing_mm=(5.0, spacing, spacing))
    )
    write_index(store, [])
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    summary = export_corpus(store.root, sys.argv[1])
    sys.exit(summary.exit_status)
