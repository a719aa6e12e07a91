"""Jacobians as fields: operators with coefficients that depend on the state, fitted to a few products."""
