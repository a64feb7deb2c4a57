"""Telling people of their jobs, by web hook, mail and command.

notice.py      what is to be told, and to whom: values
interest.py    who wants to know of what
facts.py       what can be said of a job at its event
wording.py     subjects and texts, of one notice and of many
pacing.py      when they go, together, and when they are tried again
reach.py       which addresses a user's web hook may be at
outbox.py      notices made with their events, in one commit, and what waits
delivery.py    a mailbox for each receiver: gathers, sends, tries again, gives up
webhook.py mail.py command.py    the channels
"""
