"""Where versions live and the champion is named: one adapter a module, behind one protocol."""
