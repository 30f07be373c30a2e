"""Tables in Markdown, aligned for those who read them as plain text."""


def table(rows):
  """Returns rows of texts, the first its head, as the lines of a table."""
  rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
  widths = [max(3, *map(len, column)) for column in zip(*rows)]
  rows.insert(1, ["-" * width for width in widths])
  return "".join("| " + " | ".join(
      cell.ljust(width) for cell, width in zip(row, widths)) + " |\n"
                 for row in rows)
