// A whole board behind a C interface: the Verilated design with its serial pins, and the other end
// of the cable. One call runs it until bytes came back or nothing moves any more.

#include <cstdint>
#include <deque>
#include <memory>

#include "Vreticent_board.h"
#include "verilated.h"

namespace {

constexpr int kFraction = 16;  // of a bit's phase, as in the board's own serial port
constexpr uint32_t kBit = 1u << kFraction;

struct Board {
  VerilatedContext context;
  std::unique_ptr<Vreticent_board> top;
  uint64_t cycles = 0;
  uint32_t step;  // phase of a clock cycle, in units of 2**-kFraction bits

  std::deque<uint8_t> waiting;  // to be sent to the board
  uint32_t sending = 0;         // what follows the bit on the board's rx pin, lowest first
  int bits_to_send = 0;
  uint32_t send_phase = 0;

  uint32_t shift = 0;  // the character that arrives on the board's tx pin
  int bits_to_take = 0;
  uint32_t take_phase = 0;
  std::deque<uint8_t> taken;

  explicit Board(uint32_t phase) : top(new Vreticent_board(&context)), step(phase) {
    top->clk = 0;
    top->rx = 1;
    reset();
  }

  void reset() {
    top->rst = 1;
    for (int i = 0; i < 4; ++i) tick();
    top->rst = 0;
    tick();
    bits_to_take = 0;
  }

  void tick() {
    top->clk = 1;
    top->eval();
    top->clk = 0;
    top->eval();
    ++cycles;
  }

  void send() {
    if (bits_to_send == 0) {
      if (waiting.empty()) return;
      // Start bit, data, stop bit, and the moment at which that one is over.
      sending = 0x600u | (static_cast<uint32_t>(waiting.front()) << 1);
      waiting.pop_front();
      bits_to_send = 11;
      send_phase = kBit;
    }
    send_phase += step;
    if (send_phase < kBit) return;
    send_phase -= kBit;
    top->rx = sending & 1;
    sending >>= 1;
    --bits_to_send;
  }

  void take() {
    if (bits_to_take == 0) {
      if (top->tx) return;
      bits_to_take = 10;
      take_phase = kBit / 2;
    }
    take_phase += step;
    if (take_phase < kBit) return;
    take_phase -= kBit;
    shift = (shift >> 1) | (top->tx ? 0x200u : 0);
    if (--bits_to_take == 0 && (shift & 0x200u)) taken.push_back((shift >> 1) & 0xFF);
  }

  bool quiet() const {
    return waiting.empty() && bits_to_send == 0 && bits_to_take == 0 && top->tx && !top->busy;
  }
};

}  // namespace

extern "C" {

Board* board_create(uint32_t step) { return new Board(step); }

void board_destroy(Board* b) {
  b->top->final();
  delete b;
}

uint64_t board_cycles(const Board* b) { return b->cycles; }

// What a reset button does. What is on its way to the board stays on its way.
void board_reset(Board* b) { b->reset(); }

// Whether nothing is on its way in either direction.
int board_quiet(const Board* b) { return b->quiet() && b->taken.empty(); }

void board_send(Board* b, const uint8_t* bytes, int64_t count) {
  b->waiting.insert(b->waiting.end(), bytes, bytes + count);
}

// Runs for `limit` cycles at most, until the board has been quiet for `calm` cycles, or until it
// is quiet and has sent something; returns how many bytes it sent, into `bytes` of `room`.
int64_t board_run(Board* b, uint8_t* bytes, int64_t room, int64_t limit, int64_t calm) {
  int64_t quiet = 0;
  for (int64_t i = 0; i < limit && quiet < calm; ++i) {
    b->send();
    b->tick();
    b->take();
    quiet = b->quiet() ? quiet + 1 : 0;
    if (static_cast<int64_t>(b->taken.size()) >= room) break;
  }
  int64_t count = 0;
  for (; count < room && !b->taken.empty(); ++count) {
    bytes[count] = b->taken.front();
    b->taken.pop_front();
  }
  return count;
}
}
