"""What earlier attempts teach: how long jobs like this one ran, and who has had the cards. Pure; the store keeps it.

kinds.py       which jobs are alike
estimates.py   how long a job may run, from what jobs like it did
experience.py  what every user's jobs did, kind by kind
usage.py       card-seconds of every user, old ones counting less and less
ends.py        what the end of an attempt teaches
accounts.py    attempts added up, for `usage`
"""
