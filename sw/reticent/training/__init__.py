"""Training and pruning: replay-free and replay-based Q-learning, lottery tickets, the study.

Needs the extra `train`. What runs a network elsewhere in the project never imports this.
"""
