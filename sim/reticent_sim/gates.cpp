// The core as a netlist of cells: as harness.cpp, and with a count of how often each net changed.
//
// Nets are looked at in windows: a few cycles out of many. A net counts the cycles after which it
// differed from before; `reads_N` and `writes_N` of the memories' models and `ticks_N` of clock gates
// count the cycles in which they were high.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "verilated_syms.h"

static void after_edge(void* device);
#define AFTER_EDGE(device) after_edge(device)
// A clock gate has to see inputs of the core before the edge.
#define BEFORE_EDGE(device) (device)->top->eval()
#include "harness.cpp"

namespace {

constexpr uint64_t kWindow = 48, kEvery = 768;  // cycles

// A variable of the model that stays where it is.
struct Net {
  std::string name;
  const uint8_t* now;
  size_t size;    // bytes
  size_t bits;
  int low;        // the number of the lowest bit
  bool level;
  size_t last;    // index of its bytes in `Watch::last`
  size_t counts;  // index of its bits in `Watch::counts`
};

bool is_level(const std::string& leaf) {
  for (const char* start : {"reads_", "writes_", "ticks_"})
    if (leaf.rfind(start, 0) == 0) return true;
  return false;
}

struct Watch {
  std::vector<Net> nets;
  std::vector<uint8_t> last;
  std::vector<uint64_t> counts;
  uint64_t since = 0;    // the cycle in which counting began
  uint64_t counted = 0;  // cycles
  bool primed = false;   // `last` is of the cycle before
  bool on = false;

  explicit Watch(const VerilatedScopeNameMap& scopes) {
    size_t bytes = 0, bits = 0;
    for (const auto& [path, scope] : scopes) {
      if (!scope->varsp()) continue;
      for (const auto& [leaf, variable] : *scope->varsp()) {
        if (variable.isParam() || variable.udims()) continue;
        const size_t width = variable.entBits();
        nets.push_back({std::string(path) + "." + leaf, static_cast<uint8_t*>(variable.datap()),
                        variable.totalSize(), width, variable.low(0), is_level(leaf), bytes, bits});
        bytes += variable.totalSize();
        bits += width;
      }
    }
    last.resize(bytes);
    counts.resize(bits);
  }

  void look(bool counting) {
    for (const Net& net : nets) {
      uint8_t* before = &last[net.last];
      if (counting && net.level) {
        counts[net.counts] += *net.now;
      } else if (counting && std::memcmp(before, net.now, net.size)) {
        for (size_t bit = 0; bit < net.bits; ++bit)
          counts[net.counts + bit] += (before[bit / 8] ^ net.now[bit / 8]) >> bit % 8 & 1;
      }
      std::memcpy(before, net.now, net.size);
    }
  }

  // A line for each bit: name, how often it changed; for a level, how often it was high.
  void print(FILE* file) const {
    for (const Net& net : nets) {
      for (size_t bit = 0; bit < net.bits; ++bit) {
        std::fputs(net.name.c_str(), file);
        if (net.bits > 1) std::fprintf(file, "[%d]", static_cast<int>(bit) + net.low);
        std::fprintf(file, "\t%llu\n",
                     static_cast<unsigned long long>(counts[net.counts + bit]));
      }
    }
  }
};

std::unordered_map<void*, Watch*> watches;

}  // namespace

static void after_edge(void* device) {
  const auto found = watches.find(device);
  if (found == watches.end() || !found->second->on) return;
  Watch& watch = *found->second;
  const uint64_t at = (static_cast<Device*>(device)->cycles - watch.since) % kEvery;
  if (at > kWindow) {
    watch.primed = false;
    return;
  }
  // The first cycle of a window only says from what nets will differ.
  watch.look(watch.primed);
  watch.counted += watch.primed;
  watch.primed = true;
}

extern "C" {

// Begins to count anew.
void reticent_forget(Device* d) {
  Watch*& watch = watches[d];
  if (!watch) watch = new Watch(*d->context.scopeNameMap());
  std::fill(watch->counts.begin(), watch->counts.end(), 0);
  watch->counted = 0;
  watch->primed = false;
  watch->since = d->cycles;
  watch->on = true;
}

// Stops, writes the counts, and returns in how many cycles they were made.
int64_t reticent_counts(Device* d, const char* path) {
  Watch* watch = watches.at(d);
  watch->on = false;
  FILE* file = std::fopen(path, "w");
  if (!file) return -1;
  watch->print(file);
  std::fclose(file);
  return static_cast<int64_t>(watch->counted);
}
}
