"""Pictures of what jobs did, and of what the machine did: as files, and in the characters of a terminal.

curves.py    what is drawn of jobs: panels of lines over the time since each one's start; pure
timeline.py  what is drawn of the machine: attempts as bars in the rows of their cards, and the queue; pure
marks.py     round numbers for axes, and how they are written; pure
textual.py   curves in the characters of a terminal; pure
gantt.py     the machine's timeline in the characters of a terminal; pure
canvas.py    matplotlib, loaded when a file is to be drawn; the look, and colours that everybody can tell apart
job_picture.py, machine_picture.py   the two pictures, drawn with it
"""
