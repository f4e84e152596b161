"""One file per question: a table from a study's rows and a figure of it; and the report of all."""
