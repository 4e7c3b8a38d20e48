// The Verilated core behind a C interface: one call moves a whole frame, so that a live agent does
// not cross into Python at every clock cycle. Returned numbers below zero are errors.

#include <cstdint>
#include <memory>

#include "Vreticent_core.h"
#include "verilated.h"

// Verilator writes the second underscore of a port `stream__member` as its character code.
#define PORT(stream, member) d->top->stream##___05F##member

namespace {

constexpr int kStuck = -1;     // the core did not answer within the limit
constexpr int kTooLong = -2;   // the result packet is longer than the caller expects

struct Device {
  VerilatedContext context;
  std::unique_ptr<Vreticent_core> top;
  uint64_t cycles = 0;

  Device() : top(new Vreticent_core(&context)) {
    Device* d = this;
    top->clk = 0;
    top->rst = 1;
    PORT(commands, valid) = 0;
    PORT(pixels, valid) = 0;
    PORT(replies, ready) = 0;
    PORT(results, ready) = 0;
    for (int i = 0; i < 4; ++i) tick();
    top->rst = 0;
    settle();
  }

  // Outputs that depend on inputs without a clock edge are valid after this.
  void settle() { top->eval(); }

  void tick() {
    top->clk = 1;
    top->eval();
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

Device* reticent_create() { return new Device; }

void reticent_destroy(Device* d) {
  d->top->final();
  delete d;
}

uint64_t reticent_cycles(const Device* d) { return d->cycles; }

// Executes `count` writes in order. `limit` bounds the cycles that one write may wait.
int reticent_write(Device* d, const uint32_t* addresses, const uint32_t* data, int64_t count,
                   int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    d->command(addresses[i], data[i], true);
    d->settle();
    for (int64_t wait = 0; !PORT(commands, ready); ++wait) {
      if (wait == limit) return kStuck;
      d->tick();
    }
    d->tick();
  }
  PORT(commands, valid) = 0;
  d->settle();
  return 0;
}

// Reads `count` addresses into `words`.
int reticent_read(Device* d, const uint32_t* addresses, uint32_t* words, int64_t count,
                  int64_t limit) {
  PORT(replies, ready) = 1;
  for (int64_t i = 0; i < count; ++i) {
    d->command(addresses[i], 0, false);
    d->settle();
    bool taken = false;
    for (int64_t wait = 0;; ++wait) {
      if (wait == limit) return kStuck;
      if (PORT(replies, valid)) break;
      taken = taken || PORT(commands, ready);
      d->tick();
      if (taken) PORT(commands, valid) = 0;
      d->settle();
    }
    words[i] = PORT(replies, payload);
    d->tick();
  }
  PORT(replies, ready) = 0;
  d->settle();
  return 0;
}

// Sends one frame and takes its result packet. Returns the packet's length.
int reticent_frame(Device* d, const uint8_t* pixels, int64_t count, uint32_t* words,
                   int64_t longest, int64_t limit) {
  int64_t sent = 0, received = 0;
  PORT(results, ready) = 1;
  for (int64_t cycle = 0; cycle < limit; ++cycle) {
    PORT(pixels, valid) = sent < count;
    if (sent < count) PORT(pixels, payload) = pixels[sent];
    d->settle();
    if (PORT(results, valid)) {
      if (received == longest) return kTooLong;
      words[received++] = static_cast<uint32_t>(PORT(results, payload));
      if (PORT(results, payload) >> 32) {
        d->tick();
        PORT(pixels, valid) = 0;
        PORT(results, ready) = 0;
        d->settle();
        return static_cast<int>(received);
      }
    }
    sent += PORT(pixels, valid) && PORT(pixels, ready);
    d->tick();
  }
  return kStuck;
}
}
