# cython: language_level=3
# The types of balancing.py, for the compiler only. Without them the same source runs as plain Python.
from proxy.policy.backends cimport Backend

cpdef Backend pick(tuple ready, double now_s, object random)
