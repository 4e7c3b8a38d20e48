"""The cocotb benches: `tb_<block>` for each block of `reticent_sim.bench.BLOCKS`.

They run inside the simulator; `reticent_sim.bench.run_bench` starts them.
"""
