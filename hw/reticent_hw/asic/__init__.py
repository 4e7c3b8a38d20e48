"""The core as silicon: process kits, memory macros, synthesis, timing and power."""
