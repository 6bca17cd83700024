"""Do all files of the project agree with each other?"""
