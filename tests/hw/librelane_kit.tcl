# What LibreLane asks of a kit, with values that are of the right kind and of no process: enough for
# its check of a project. The kit of IHP brings its own.
set ref "$::env(PDK_ROOT)/$::env(PDK)/libs.ref"
set tech "$::env(PDK_ROOT)/$::env(PDK)/libs.tech/librelane"
set cells "$ref/sg13g2_stdcell"
set any "$tech/config.tcl"

set ::env(VDD_PIN) VPWR
set ::env(GND_PIN) VGND
set ::env(SCL_POWER_PINS) VDD
set ::env(SCL_GROUND_PINS) VSS
set ::env(DEFAULT_CORNER) nom_typ_1p20V_25C
set ::env(STA_CORNERS) nom_typ_1p20V_25C
set ::env(TIMING_VIOLATION_CORNERS) "*typ*"
set ::env(LIB) [dict create "*" "$cells/lib/sg13g2_stdcell_typ_1p20V_25C.lib"]
set ::env(TECH_LEFS) [dict create "*" $any]
set ::env(CELL_LEFS) $any
set ::env(CELL_GDS) $any
set ::env(SYNTH_EXCLUDED_CELL_FILE) $any
set ::env(PNR_EXCLUDED_CELL_FILE) $any
set ::env(FP_TRACKS_INFO) $any
set ::env(RCX_RULESETS) [dict create "*" $any]
foreach name {MAGICRC MAGIC_TECH MAGIC_PDK_SETUP KLAYOUT_TECH KLAYOUT_PROPERTIES \
              KLAYOUT_DEF_LAYER_MAP NETGEN_SETUP} {
    set ::env($name) $any
}
set ::env(PRIMARY_GDSII_STREAMOUT_TOOL) klayout
foreach name {RT_MIN_LAYER PDN_RAIL_LAYER} { set ::env($name) Metal1 }
foreach name {RT_MAX_LAYER PDN_VERTICAL_LAYER} { set ::env($name) TopMetal1 }
set ::env(PDN_HORIZONTAL_LAYER) TopMetal2
set ::env(IO_PIN_H_LAYER) Metal3
set ::env(IO_PIN_V_LAYER) Metal2
set ::env(GRT_LAYER_ADJUSTMENTS) "0,0,0,0,0,0,0"
foreach name {FILL_CELLS DECAP_CELLS CELL_PAD_EXCLUDE} { set ::env($name) "sg13g2_fill*" }
set ::env(SYNTH_DRIVING_CELL) sg13g2_buf_4/X
set ::env(SYNTH_TIEHI_CELL) sg13g2_tiehi/L_HI
set ::env(SYNTH_TIELO_CELL) sg13g2_tielo/L_LO
set ::env(SYNTH_BUFFER_CELL) sg13g2_buf_1/A/X
set ::env(CTS_ROOT_BUFFER) sg13g2_buf_16
set ::env(CTS_CLK_BUFFERS) sg13g2_buf_8
set ::env(PLACE_SITE) CoreSite
set ::env(MAX_FANOUT_CONSTRAINT) 8
foreach name {DPL_CELL_PADDING GPL_CELL_PADDING PDN_RAIL_OFFSET} { set ::env($name) 0 }
foreach name {OUTPUT_CAP_LOAD IO_DELAY_CONSTRAINT TIME_DERATING_CONSTRAINT} { set ::env($name) 5 }
foreach name {CLOCK_UNCERTAINTY_CONSTRAINT CLOCK_TRANSITION_CONSTRAINT PDN_RAIL_WIDTH} {
    set ::env($name) 0.25
}
foreach kind {WIDTH SPACING PITCH OFFSET} {
    foreach side {V H} {
        set ::env(PDN_${side}${kind}) 20
        set ::env(PDN_CORE_RING_${side}${kind}) 20
    }
}
