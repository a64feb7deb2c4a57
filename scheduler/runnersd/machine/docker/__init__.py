"""Container jobs: one container an attempt, on an engine that may lie, hang, die and come back.

    launcher    what the engine room asks for: launch, wait, stop; one attempt's life is in `attempt`
    attempt     from its name's record to its end, step by step
    making      its container made, and compared with what was asked
    staging     containers made early, for the next job of a card
    sweep       containers and gates that nobody wants any more
    keeper      keeps the locks of containers' cards, daemon or no daemon
    sight       one look at a container, by the engine's word and the kernel's
    pace        when an attempt is looked at again
    stopping    the end that was asked for, and how far it has come
    reconcile   what to do with an attempt, given what the engine and the kernel say: one table. Pure
    body        what a container is made of, and whether it is what was asked for. Pure
    record      the file that makes an attempt run once, and says later which container it was
    interior    what an image holds where mounts will lie
    nesting     mounts within one another, and links in an image that would lead one into another
    gate        keeps a container's payload from starting until everything has been looked at
    images      which image a name means, and whether it will do; pulls
    shells      a static shell of the host's, for gates
    paths       what may be mounted, looked up with the submitter's rights
    asuser      work on files with the rights of another user
    noting      what an experiment is told of its containers
    openat      files held without being opened
    aside       looks at files that may hang, each with a deadline
    rights      whose rights a container's processes have
    devices     the cards a container really got
    result      a container's end as an attempt's outcome. Pure
    instance    which engine process answers
    surroundings   what all attempts on an engine share
    force       signals, by the engine or past it
    process     its first process: its cards locked while that runs, and how it went
    watch       that, and the shim above it, through the kernel
    kernel      which processes are a container's, whatever the engine says
    frames      the engine's log stream taken apart. Pure
    logs        a container's output on its way into the attempt's logs
    output      when that begins, and when all has come
    connection  calls to the engine, each with a deadline, in one small vocabulary of errors

The engine is never the only witness. An attempt is over when the engine *and* the kernel say so, and what a call that
was not answered has done is found out by looking.
"""
