"""`runnersd doctor`: is this machine ready for `runners`, and what mends it where it is not?

`gather` looks at the machine, with a deadline on every look, and makes `facts` of what it sees. The checks (`cards`,
`containers`, `people`, `places`, with the table of holes in `versions`) are pure: facts in, findings out. `report`
makes findings into lines, and `command` is the program.

A *failure* breaks a promise of `runners` or keeps the daemon from starting. A *warning* is something missing or weaker
than it could be. So a laptop with neither cards nor Docker has warnings, and no failure.
"""
