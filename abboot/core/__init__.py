"""The pure core: values in, values out.  No os, open, time, subprocess or logging."""
