"""What pls-doctor knows: facts about a set-up, and checks of them.

`facts` are collected by `sqlfacts` and `reflection`, and by the command
itself; `checks` are pure functions of them, and `repairs` are their cures.
"""
