"""What all tests share."""

import os

# Set before numpy is imported: tests run side by side, and threads of the linear algebra library
# that wait for one another make its small products fifty times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
