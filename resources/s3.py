"""The artifact store on S3, with dagster-aws's resource for credentials and endpoint."""

import dagster as dg
from dagster_aws.s3 import S3Resource

from resources.artifacts import ArtifactStoreResource


class S3ArtifactStoreResource(ArtifactStoreResource):
    """The same store at s3://bucket/prefix. What the S3Resource leaves open, boto's own configuration decides."""

    s3: dg.ResourceDependency[S3Resource]

    def storage_options(self) -> dict[str, object]:
        named = {
            "endpoint_url": self.s3.endpoint_url,
            "key": self.s3.aws_access_key_id,
            "secret": self.s3.aws_secret_access_key,
            "token": self.s3.aws_session_token,
            "profile": self.s3.profile_name,
        }
        options: dict[str, object] = {name: value for name, value in named.items() if value}
        if self.s3.region_name:
            options["client_kwargs"] = {"region_name": self.s3.region_name}
        options["use_listings_cache"] = False  # fsspec would answer from a listing made before another process wrote
        return options
