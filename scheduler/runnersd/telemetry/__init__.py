"""What an attempt did with its cards and its processes while it ran.

sample.py     one look at an attempt: values
summary.py    all of its looks, summed up as they come
verdict.py    what that means, in sentences
recording.py  where samples go that somebody wants to see again one by one
"""
