// The smallest design around the core: it asks for the core's ID over the command stream and shows
// whether the answer is right. `reticent verilog -o FOLDER` writes reticent_core.v, which has the
// module reticent_axis.
module top (
  input clk,
  input resetn,
  output reg alive,  // the core has answered, and it is one
  output reg done    // it has answered
);
  localparam [31:0] ID_ADDRESS = 32'h0000_0000;  // space 0 (registers), register 0
  localparam [31:0] ID = 32'h5254_434E;          // "RTCN"

  reg asked;
  wire command_ready, reply_valid;
  wire [31:0] reply;

  always @(posedge clk) begin
    if (!resetn) begin
      asked <= 0;
      done <= 0;
      alive <= 0;
    end else begin
      if (command_ready) asked <= 1;
      if (reply_valid && !done) begin
        done <= 1;
        alive <= reply == ID;
      end
    end
  end

  reticent_axis accelerator (
    .aclk(clk),
    .aresetn(resetn),
    // A command: bit 64 is write, 63:32 the address, 31:0 the word to write.
    .s_axis_command_tdata({7'd0, 1'b0, ID_ADDRESS, 32'd0}),
    .s_axis_command_tvalid(resetn && !asked),
    .s_axis_command_tready(command_ready),
    .m_axis_reply_tdata(reply),
    .m_axis_reply_tvalid(reply_valid),
    .m_axis_reply_tready(1'b1),
    // No frames here: these would come from a camera, and results would go to whoever acts.
    .s_axis_pixel_tdata(16'd0),
    .s_axis_pixel_tvalid(1'b0),
    .s_axis_pixel_tready(),
    .m_axis_result_tdata(),
    .m_axis_result_tlast(),
    .m_axis_result_tvalid(),
    .m_axis_result_tready(1'b1)
  );
endmodule
