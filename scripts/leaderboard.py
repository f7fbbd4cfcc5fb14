"""Compare every run and every sweep job below a folder, as a table and as a page.

python scripts/leaderboard.py outputs --sort=skill --html=leaderboard.html
python scripts/leaderboard.py outputs/sweeps/search --copy-best=model
"""

from kforecast.commands.leaderboard import main

if __name__ == "__main__":
    main()
