// The Verilated core behind a C interface: one call moves a whole frame, so that a live agent does
// not cross into Python at every clock cycle. Returned numbers below zero are errors.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "Vreticent_core.h"
#include "verilated.h"

// Verilator writes the second underscore of a port `stream__member` as its character code.
#define PORT(stream, member) d->top->stream##___05F##member

// What is done before and after each rising edge, once everything has settled.
#ifndef BEFORE_EDGE
#define BEFORE_EDGE(device)
#endif
#ifndef AFTER_EDGE
#define AFTER_EDGE(device)
#endif

namespace {

constexpr int kStuck = -1;     // the core did not answer within the limit
constexpr int kTooLong = -2;   // the result packet is longer than the caller expects

struct Device {
  VerilatedContext context;
  std::unique_ptr<Vreticent_core> top;
  uint64_t cycles = 0;
  std::vector<uint8_t> previous;  // the last frame, empty when a full one must be sent

  explicit Device(uint32_t seed) {
    if (seed) {
      context.randReset(2);
      context.randSeed(static_cast<int>(seed));
    }
    top.reset(new Vreticent_core(&context));
    Device* d = this;
    top->clk = 0;
    top->rst = 1;
    PORT(commands, valid) = 0;
    PORT(pixels, valid) = 0;
    PORT(replies, ready) = 0;
    PORT(results, ready) = 0;
    for (int i = 0; i < 4; ++i) tick();
    top->rst = 0;
    tick();
  }

  // No output of the core depends on an input without a register between, so ports are sampled
  // before the edge and inputs may be set at the same moment.
  void tick() {
    BEFORE_EDGE(this);
    top->clk = 1;
    top->eval();
    AFTER_EDGE(this);
    top->clk = 0;
    top->eval();
    ++cycles;
  }

  void command(uint32_t address, uint32_t data, bool write) {
    Device* d = this;
    PORT(commands, payload)[0] = data;
    PORT(commands, payload)[1] = address;
    PORT(commands, payload)[2] = write;
    PORT(commands, valid) = 1;
  }
};

}  // namespace

extern "C" {

// With a seed, registers and memories hold random contents at power-up where the model says that
// nothing is known of them (`--x-initial unique`).
Device* reticent_create(uint32_t seed) { return new Device(seed); }

void reticent_destroy(Device* d) {
  d->top->final();
  delete d;
}

uint64_t reticent_cycles(const Device* d) { return d->cycles; }

// Executes `count` writes in order. `limit` bounds the cycles that one write may wait.
int reticent_write(Device* d, const uint32_t* addresses, const uint32_t* data, int64_t count,
                   int64_t limit) {
  d->previous.clear();
  for (int64_t i = 0; i < count; ++i) {
    d->command(addresses[i], data[i], true);
    for (int64_t wait = 0; !PORT(commands, ready); ++wait) {
      if (wait == limit) return kStuck;
      d->tick();
    }
    d->tick();
  }
  PORT(commands, valid) = 0;
  return 0;
}

// Reads `count` addresses into `words`.
int reticent_read(Device* d, const uint32_t* addresses, uint32_t* words, int64_t count,
                  int64_t limit) {
  PORT(replies, ready) = 1;
  for (int64_t i = 0; i < count; ++i) {
    d->command(addresses[i], 0, false);
    bool taken = false;
    for (int64_t wait = 0;; ++wait) {
      if (wait == limit) return kStuck;
      if (PORT(replies, valid)) break;
      taken = taken || PORT(commands, ready);
      d->tick();
      if (taken) PORT(commands, valid) = 0;
    }
    words[i] = PORT(replies, payload);
    d->tick();
  }
  PORT(replies, ready) = 0;
  return 0;
}

// Sends one frame of `rows` rows and takes its result packet. Rows that are what they were go as one
// word. Returns the packet's length.
int reticent_frame(Device* d, const uint8_t* pixels, int64_t rows, int64_t columns,
                   uint32_t* words, int64_t longest, int64_t limit) {
  constexpr uint32_t kSame = 1 << 8, kRest = 1 << 9;
  const int64_t count = rows * columns;
  const bool known = static_cast<int64_t>(d->previous.size()) == count;
  auto row_is_same = [&](int64_t at) {
    return known && std::memcmp(pixels + at, d->previous.data() + at, columns) == 0;
  };
  int64_t sent = 0, received = 0;
  bool whole_row = row_is_same(0);
  PORT(results, ready) = 1;
  for (int64_t cycle = 0; cycle < limit; ++cycle) {
    PORT(pixels, valid) = sent < count;
    if (sent < count) PORT(pixels, payload) = whole_row ? kSame | kRest : pixels[sent];
    if (PORT(results, valid)) {
      if (received == longest) return kTooLong;
      words[received++] = static_cast<uint32_t>(PORT(results, payload));
      if (PORT(results, payload) >> 32) {
        d->tick();
        PORT(pixels, valid) = 0;
        PORT(results, ready) = 0;
        d->previous.assign(pixels, pixels + count);
        return static_cast<int>(received);
      }
    }
    if (PORT(pixels, valid) && PORT(pixels, ready)) {
      sent += whole_row ? columns : 1;
      if (sent % columns == 0 && sent < count) whole_row = row_is_same(sent);
    }
    d->tick();
  }
  return kStuck;
}
}
