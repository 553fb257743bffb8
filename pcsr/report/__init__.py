"""Tables, figures and claims: functions of measured data and nothing else.

``tidy`` joins the sweeps into one table, which the other modules read.
"""
