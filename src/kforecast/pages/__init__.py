"""What all HTML pages share: figures (drawing), colours, templates and the style sheet.

Used by evaluation reports, the leaderboard and the pages of retraining. It imports nothing else of the
package: pages know how things look, their users know what to show.
"""
