"""Tables, figures and pages that commands leave behind."""
