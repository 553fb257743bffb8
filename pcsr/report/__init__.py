"""Tables, figures and claims: functions of measured data and nothing else.

``tidy`` joins the sweeps into one table; the others read it, or the arrays they are given.
"""
