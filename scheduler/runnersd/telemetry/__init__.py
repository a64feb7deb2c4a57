"""What an attempt did with its cards and its processes while it ran.

sample.py     one look at an attempt: values
summary.py    all of its looks, summed up as they come
verdict.py    what that means, in sentences
recording.py  where samples go that somebody wants to see again one by one
layout.py     where the series of attempts lie, and what is in one
recorder.py   keeps them, by processes: process.py is the daemon's end of one, asking.py one that answers,
              frames.py the words between them
child.py      the program of those processes; what follows needs zarr, and only it loads that
series.py     writes a series; storage.py is how a file is replaced
reading.py    reads one
compaction.py makes an old one small; upkeep.py finds the old ones, and deletes the oldest
"""
