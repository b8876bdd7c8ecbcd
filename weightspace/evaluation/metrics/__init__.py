"""Figures of merit: functions of predictions and of weights."""
