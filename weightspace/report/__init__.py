"""What evaluation found, as data, tables, figures and pages."""
