// The core as a netlist of cells: as harness.cpp, and with a count of how often each net changed
// and each memory was used, which Verilator keeps as coverage.

#include "harness.cpp"
#include "verilated_cov.h"

extern "C" {

// Begins to count anew.
void reticent_forget(Device* d) { d->context.coveragep()->zero(); }

// Writes the counts since then, of each instance by itself.
void reticent_counts(Device* d, const char* path) {
  d->context.coveragep()->forcePerInstance(true);
  d->context.coveragep()->write(path);
}
}
