"""LiteRT and TFLite Micro: conversion, schemes, interpreters, and the C array."""
