"""What the chapters use to show things: source code, figures, widgets."""
