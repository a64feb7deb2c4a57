"""What an attempt did with its cards and its processes while it ran.

sample.py     one look at an attempt: values
recording.py  where samples go that somebody wants to see again one by one
"""
