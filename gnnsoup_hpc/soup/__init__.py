"""Souping: ingredients in, one model out."""
