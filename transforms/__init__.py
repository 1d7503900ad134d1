"""One thread for each library: records are spread over processes, and threads that wait for each other burn a second core."""

import os

for _libraries in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_libraries, "1")  # read once, when NumPy, FAISS or torch is loaded; holds in all threads
