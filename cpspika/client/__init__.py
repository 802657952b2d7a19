"""The core: connections and channels whose operations take on_done(err, result). It never blocks."""
