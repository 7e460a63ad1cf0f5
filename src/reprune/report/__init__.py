"""A judgement as people read it. No torch, no registry: only the verdict directory."""
