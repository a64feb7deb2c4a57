"""Host jobs: each attempt under a small supervisor, forked by a lean spawner, outside the daemon's tree.

In the daemon:

    launcher     asks, hears, takes back what an earlier daemon ran
    attempt      what is known of one attempt
    supervisors  the idle ones that take the next order, and the spawner that makes more
    connection   to the spawner
    channel      to any of them

In the spawner's interpreter:

    spawner      one a daemon: forks supervisors, is gone when its daemon is
    supervisor   has one attempt after another; outlives every daemon while it has one
    watch        one attempt: runs it, keeps its output and its end
    starting     its first process
    output       its logs

In both:

    order        what they say to each other
    record       what an attempt leaves behind, and how it is read
    processes    what /proc tells

The spawner's interpreter loads nothing else of this project (a fork costs what the forked process weighs): what lives
there imports relatively, and only small parts of the standard library.
"""
