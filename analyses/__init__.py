"""One file a question: a table from a study's rows, a figure of it; and the report of them all."""
