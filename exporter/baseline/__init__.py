"""Choice of the stored hours that form a series' baseline, and its figures. Pure: no I/O, no clock, no globals."""
