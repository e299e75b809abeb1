"""`anyport demo`: an embedded cluster, the real anyport, users, and a story of deploys and kills."""
