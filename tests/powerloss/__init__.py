"""A disk that loses its power: what a program does to its files is recorded, and cut off at any place.

recorder.c ──► log ──► recording.read ──► Disk.do, step by step ──► Disk.cut: a folder as the power may leave it
"""
