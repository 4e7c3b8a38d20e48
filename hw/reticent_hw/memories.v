// Behavioural memories of the exported core. They hold no initial value: everything that is read
// was written after power-up. Synthesis infers block or distributed memory from them; an ASIC flow
// replaces them by macros of the same ports.

// What a read gives for a row that is being written must not matter: block memories and macros
// promise nothing. Simulation inverts such an answer, so that whoever depends on it fails.
`ifdef VERILATOR
`define ANSWER(N) rows[read_``N``_addr] ^ {WIDTH{write_en && write_addr == read_``N``_addr}}
`else
`define ANSWER(N) rows[read_``N``_addr]
`endif

// One write port, one synchronous read port.
module reticent_memory_1r #(parameter WIDTH = 1, parameter DEPTH = 1, parameter ADDRESS = 1) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [WIDTH-1:0] write_data,
  input read_0_en,
  input [ADDRESS-1:0] read_0_addr,
  output reg [WIDTH-1:0] read_0_data
);
  reg [WIDTH-1:0] rows [0:DEPTH-1];
  always @(posedge clk) begin
    if (write_en) rows[write_addr] <= write_data;
    if (read_0_en) read_0_data <= `ANSWER(0);
  end
endmodule

// One write port, two synchronous read ports.
module reticent_memory_2r #(parameter WIDTH = 1, parameter DEPTH = 1, parameter ADDRESS = 1) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [WIDTH-1:0] write_data,
  input read_0_en,
  input [ADDRESS-1:0] read_0_addr,
  output reg [WIDTH-1:0] read_0_data,
  input read_1_en,
  input [ADDRESS-1:0] read_1_addr,
  output reg [WIDTH-1:0] read_1_data
);
  reg [WIDTH-1:0] rows [0:DEPTH-1];
  always @(posedge clk) begin
    if (write_en) rows[write_addr] <= write_data;
    if (read_0_en) read_0_data <= `ANSWER(0);
    if (read_1_en) read_1_data <= `ANSWER(1);
  end
endmodule

// One write port, one asynchronous read port: small, for FIFOs and bitmaps.
module reticent_memory_async #(parameter WIDTH = 1, parameter DEPTH = 1, parameter ADDRESS = 1) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [WIDTH-1:0] write_data,
  input [ADDRESS-1:0] read_0_addr,
  output [WIDTH-1:0] read_0_data
);
  reg [WIDTH-1:0] rows [0:DEPTH-1];
  always @(posedge clk) if (write_en) rows[write_addr] <= write_data;
  assign read_0_data = rows[read_0_addr];
endmodule
