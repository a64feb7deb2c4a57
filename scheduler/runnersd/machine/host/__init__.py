"""Host jobs: one small supervisor a job, forked by a lean spawner, outside the daemon's tree.

    launcher   in the daemon: asks, watches, takes back
    spawner    one a daemon: forks supervisors, is gone when its daemon is
    supervisor one an attempt: runs it, keeps its output and its end, outlives every daemon
    record     what a supervisor leaves behind, and how it is read
    processes  what /proc tells

`spawner`, `supervisor`, `record` and `processes` also live in the spawner's interpreter, which loads nothing else of
this project (a fork costs what the forked process weighs): they import relatively, and only small parts of the
standard library.
"""
