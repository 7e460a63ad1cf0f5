"""Everything that trains: recovery, distillation, what shapes a model meanwhile, schedules."""
