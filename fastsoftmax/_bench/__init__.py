"""How fast is it here: a grid of cases measured against whatever peers are installed.

`cases` says what is measured and what is asked of it, `peers` how each library computes it, `measure` takes the times,
`grid` goes through the cases and `report` tells the results. ``fastsoftmax bench`` and ``asv_bench/compare.py`` are two
ways to start it; the benchmarks of airspeed velocity measure with `measure` too.
"""
