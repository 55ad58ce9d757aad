"""Server-side assignors: from subscriptions and partition counts to who should read what. Pure, deterministic."""
