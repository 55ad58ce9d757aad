#!/usr/bin/env bash
# Makes the images that deploy/ builds on, where none can be pulled: Debian by debootstrap, MinIO from its source.
# Needs root, debootstrap, Go and a Docker engine. Certificates that this machine trusts are trusted in the images, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=ca-certificates trixie "$folder/debian"
cp /etc/ssl/certs/ca-certificates.crt "$folder/debian/etc/ssl/certs/"
tar -C "$folder/debian" -c . |
  docker import -c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' - debian:trixie-slim

export GOBIN=$folder/minio
go install github.com/minio/minio@latest
go install github.com/minio/mc@latest
printf 'FROM debian:trixie-slim\nCOPY minio mc /usr/bin/\nENTRYPOINT ["minio"]\n' >"$folder/minio/Dockerfile"
docker build -t minio/minio "$folder/minio"
