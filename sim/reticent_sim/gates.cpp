// The core as a netlist of cells: as harness.cpp, and with a count of how often each net changed.
//
// Verilator's trace is read as it is written, in windows: a few cycles out of many. A net counts the
// cycles after which it differed from before; `reads_N` and `writes_N` of the memories' models count
// the cycles in which they were high.

#include <cstdint>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

#include "verilated_vcd_c.h"

static void after_edge(void* device);
#define AFTER_EDGE(device) after_edge(device)
#include "harness.cpp"

namespace {

constexpr uint64_t kWindow = 48, kEvery = 768;  // cycles

// Takes the text of a trace, keeps counts.
class Counter final : public VerilatedVcdFile {
 public:
  bool counting = false;

  bool open(const std::string&) override { return true; }
  void close() override {}

  ssize_t write(const char* text, ssize_t length) override {
    for (ssize_t i = 0; i < length; ++i) {
      if (text[i] != '\n') {
        line_ += text[i];
        continue;
      }
      if (!line_.empty()) take(line_);
      line_.clear();
    }
    return length;
  }

  // The end of a cycle: levels are counted.
  void settle() {
    for (Net* net : levels_) net->high += net->last == "1";
  }

  void forget() {
    for (auto& [code, net] : nets_) {
      net.changes.assign(net.width, 0);
      net.high = 0;
    }
  }

  // A line for each bit: name, how often it changed; for a level, how often it was high.
  void print(FILE* file) const {
    for (const auto& [name, code, low] : names_) {
      const Net& net = nets_.at(code);
      if (net.level) {
        std::fprintf(file, "%s\t%llu\n", name.c_str(), static_cast<unsigned long long>(net.high));
        continue;
      }
      for (size_t bit = 0; bit < net.width; ++bit) {
        std::fprintf(file, "%s", name.c_str());
        if (net.width > 1) std::fprintf(file, "[%zu]", bit + low);
        std::fprintf(file, "\t%llu\n",
                     static_cast<unsigned long long>(net.changes[net.width - 1 - bit]));
      }
    }
  }

 private:
  struct Net {
    size_t width = 1;
    bool level = false;
    uint64_t high = 0;
    std::string last;               // highest bit first
    std::vector<uint64_t> changes;  // in this order
  };
  struct Name {
    std::string name, code;
    size_t low;
  };

  void take(const std::string& line) {
    const char first = line[0];
    if (first == '0' || first == '1') {
      change(line.substr(1), line.substr(0, 1));
    } else if (first == 'b') {
      const size_t blank = line.find(' ');
      change(line.substr(blank + 1), line.substr(1, blank - 1));
    } else if (first != '#') {
      declare(line);
    }
  }

  void change(const std::string& code, std::string value) {
    const auto found = nets_.find(code);
    if (found == nets_.end()) return;
    Net& net = found->second;
    if (value.size() < net.width) value.insert(0, net.width - value.size(), '0');
    if (counting && !net.last.empty()) {
      for (size_t i = 0; i < net.width; ++i) net.changes[i] += value[i] != net.last[i];
    }
    net.last = value;
  }

  void declare(const std::string& line) {
    char word[2048], code[64], kind[32];
    size_t width = 0, high = 0, low = 0;
    if (std::sscanf(line.c_str(), " $scope module %2047s $end", word) == 1) {
      scopes_.push_back(word);
    } else if (line.find("$upscope") != std::string::npos) {
      scopes_.pop_back();
    } else if (std::sscanf(line.c_str(), " $var %31s %zu %63s %2047s [%zu:%zu]", kind, &width, code,
                           word, &high, &low) >= 4) {
      std::string name;
      for (const std::string& scope : scopes_) name += scope + "/";
      name += word;
      Net& net = nets_[code];
      net.width = width;
      net.changes.assign(width, 0);
      const std::string leaf = word;
      if (leaf.rfind("reads_", 0) == 0 || leaf.rfind("writes_", 0) == 0) {
        if (!net.level) levels_.push_back(&net);
        net.level = true;
      }
      names_.push_back({name, code, low});
    }
  }

  std::string line_;
  std::vector<std::string> scopes_;
  std::unordered_map<std::string, Net> nets_;
  std::vector<Net*> levels_;
  std::vector<Name> names_;
};

struct Watch {
  Counter counter;
  VerilatedVcdC trace{&counter};
  uint64_t since = 0;    // the cycle in which counting began
  uint64_t window = 0;   // cycles of the window that are over
  uint64_t counted = 0;  // cycles
  bool on = false;
};

std::unordered_map<void*, Watch*> watches;

}  // namespace

static void after_edge(void* device) {
  const auto found = watches.find(device);
  if (found == watches.end() || !found->second->on) return;
  Watch& watch = *found->second;
  Device* d = static_cast<Device*>(device);
  const uint64_t at = (d->cycles - watch.since) % kEvery;
  if (at > kWindow) return;
  // The first cycle of a window brings what changed since the last one, which counts nothing.
  watch.counter.counting = at > 0 && watch.window > 0;
  watch.window = at == 0 ? 1 : watch.window ? watch.window + 1 : 0;
  watch.trace.dump(d->cycles);
  watch.trace.flush();
  if (watch.counter.counting) {
    watch.counter.settle();
    ++watch.counted;
  }
}

extern "C" {

// Begins to count anew.
void reticent_forget(Device* d) {
  Watch*& watch = watches[d];
  if (!watch) {
    watch = new Watch;
    d->context.traceEverOn(true);
    d->top->trace(&watch->trace, 99);
    watch->trace.open("");
  }
  watch->counter.forget();
  watch->counted = watch->window = 0;
  watch->since = d->cycles;
  watch->on = true;
}

// Stops, writes the counts, and returns in how many cycles they were made.
int64_t reticent_counts(Device* d, const char* path) {
  Watch* watch = watches.at(d);
  watch->on = false;
  FILE* file = std::fopen(path, "w");
  if (!file) return -1;
  watch->counter.print(file);
  std::fclose(file);
  return static_cast<int64_t>(watch->counted);
}
}
